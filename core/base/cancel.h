#pragma once
/// CancelToken is part of the public interface.
#include <autoglm/cancel.h>
