"""The web console: one place to look at runs, answer what people are asked, and put right what went wrong."""
