"""Export: ONNX files for stock integer kernels, with proof that they compute what the simulation computes.

Nothing is imported here: targets are known without the packages that write files.
"""
