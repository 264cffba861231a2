"""What this program does on a GPU, measured by one command: `make device`.

`__main__` runs the parts one after the other, each a module here in a process of its own with a time
limit; a part that fails, or runs out of time, costs the others nothing. Without a GPU the same parts run
on toy shapes: Triton's interpreter, the engine's device of threads. That shows that the script works, and
measures nothing.
"""
