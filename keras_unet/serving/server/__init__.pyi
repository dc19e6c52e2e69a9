from .embedded import EmbeddedServer as EmbeddedServer
from .limits import Limits as Limits
from .settings import ServerSettings as ServerSettings
