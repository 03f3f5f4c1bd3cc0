/* The launcher without an interpreter of its own: run_embedded has nothing to run. */
#include "launcher.h"

void run_embedded(const struct place *place, int argc, char **argv)
{
    (void)place;
    (void)argc;
    (void)argv;
}
