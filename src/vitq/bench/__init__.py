"""Speed, size, memory and accuracy of exported files, beside the runtimes' own int8."""
