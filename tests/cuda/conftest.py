"""A computer with a stand-in GPU, for the tests that ask for one."""

from standin_machine import hopper as hopper
from standin_machine import site as site
