"""The command line: flags as tables, a parser, log records, and verbs that call the lifecycle.

main.py is the outermost frame; flags.py is what parser, help, manual and completion are made from; verbs.py has one
function per verb, which imports the room it needs; log.py and output.py are the two ways out. embed.py is the start
inside the launcher's own interpreter (csrc/launcher_embed.c). Nothing below this room prints or exits.
"""
