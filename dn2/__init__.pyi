from dn2.detector import DN2 as DN2
from dn2.detector import DN2Plus as DN2Plus
from dn2.features import Encoder as Encoder
from dn2.groups import GroupDN2 as GroupDN2
from dn2.image_detector import ImageDetector as ImageDetector
from dn2.kmeans import KMeansDN2 as KMeansDN2
from dn2.saving import load as load
from dn2.search import nearest as nearest

__version__: str
