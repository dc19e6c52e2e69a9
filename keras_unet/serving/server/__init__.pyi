from .embedded import EmbeddedServer as EmbeddedServer
from .settings import Limits as Limits
from .settings import ServerSettings as ServerSettings
