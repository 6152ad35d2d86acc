"""What KEDA calls: messages and stubs written by protoc from protos/holdfast/keda."""
