/* OP_COPY_UP */
#include "init.h"

int op_copy_up(struct ctx *c, const struct step *s)
{
    (void)c;
    (void)s;
    return -ENOSYS;
}
