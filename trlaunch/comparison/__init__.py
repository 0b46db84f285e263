"""What two builds of a kernel differ in."""
