/* SPDX-License-Identifier: MIT
 *
 * The interpreter of guests with 32-bit registers.
 */
#define WIDTH 32
#include "interpreter_execute.h"
