"""What training changes: the stack of mask decoders, its losses, optimiser and trainer."""
