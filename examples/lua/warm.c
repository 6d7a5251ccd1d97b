/* SPDX-License-Identifier: MIT */
/* Lua without a main: what takes long is done once, in `prepare`, and scripts run in copies of the guest as it was then. */
#include <pvm.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include "lauxlib.h"
#include "lua.h"
#include "lualib.h"

static lua_State *state;
static char *script;

PVM_EXPORT(bool, prepare);
PVM_EXPORT(char *, script_room, uint32_t);
PVM_EXPORT(bool, run_script, uint32_t);

/* Opens Lua and its libraries. False: there is no memory. */
bool prepare(void) {
    state = luaL_newstate();
    if (state != NULL)
        luaL_openlibs(state);
    return state != NULL;
}

/* Where a script of so many bytes is to be put. NULL: there is no memory. */
char *script_room(uint32_t size) {
    script = malloc(size + 1u);
    return script;
}

/* Runs it. False: it failed, and standard error says how. */
bool run_script(uint32_t size) {
    bool done = luaL_loadbufferx(state, script, size, "=script", "t") == LUA_OK &&
                lua_pcall(state, 0, 0, 0) == LUA_OK;
    if (!done)
        fprintf(stderr, "%s\n", luaL_tolstring(state, -1, NULL));
    fflush(stdout);
    return done;
}
