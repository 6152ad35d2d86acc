"""One command that brings the whole suite up on this machine and takes all of it down again."""

from holdfast.dev.error import PortBusyError, SuiteError
from holdfast.dev.process import ServiceProcess
from holdfast.dev.suite import Suite

__all__ = ["PortBusyError", "ServiceProcess", "Suite", "SuiteError"]
