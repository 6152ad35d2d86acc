"""The contract's messages as the engine uses them: nothing else in this room touches a message's fields."""
