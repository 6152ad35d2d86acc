FROM holdfast:0.1.0
COPY hello.py /agents/
