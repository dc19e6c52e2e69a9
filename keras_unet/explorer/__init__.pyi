from .server import Explorer as Explorer
from .server import Session as Session
from .server import explore as explore
