"""YARN as the place where containers come from: placement, launch, survival of what fails around it."""
