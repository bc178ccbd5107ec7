"""The relocatable archive that carries TARN and its dependencies to a cluster's nodes."""
