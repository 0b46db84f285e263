"""The embedded driver: executes PTX on the CPU over NumPy memory."""
