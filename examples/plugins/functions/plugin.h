/* SPDX-License-Identifier: MIT */
/* What a plug-in is: a function of up to three numbers. It can ask the server for what is stored under a number. */
#pragma once
#include <pvm.h>

PVM_EXPORT(int64_t, plugin, int64_t, int64_t, int64_t);
PVM_IMPORT(int64_t, lookup, uint32_t);
