"""An async client over the contract: every call names its run, every stream resumes from a cursor."""
