"""The dispatcher: each intent reaches its destination once, in order, without hammering it."""
