"""Generated from proto/tarn_am/hadoop/pb by scripts/protos."""
