"""NVIDIA: the driver, the cubin reader, ptxas and the disassembler."""
