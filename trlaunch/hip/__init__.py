"""AMD GPUs: the driver through hip-python, hsaco reading, AMDGCN assembly and disassembly."""
