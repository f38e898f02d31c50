"""placeholder"""
import math
from enum import StrEnum
class Schedule(StrEnum):
    CONSTANT="constant"
    COSINE="cosine"
    LINEAR="linear"
    STEP="step"
def learning_rate(settings, step, steps_per_epoch, steps):
    e, E = step//steps_per_epoch, math.ceil(steps/steps_per_epoch)
    return {"constant":1.0,"cosine":0.5*(1+math.cos(math.pi*e/E)),"linear":1-e/E}[settings.schedule]*settings.lr
