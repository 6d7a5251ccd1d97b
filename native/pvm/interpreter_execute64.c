/* SPDX-License-Identifier: MIT
 *
 * The interpreter of guests with 64-bit registers.
 */
#define WIDTH 64
#include "interpreter_execute.h"
