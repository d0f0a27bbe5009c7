// Found in front of CUDA's own.
#pragma once
#include "../device.h"
