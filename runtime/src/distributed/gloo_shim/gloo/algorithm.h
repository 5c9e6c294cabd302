// The torch wheels have Gloo's code and not its headers. These five files declare the few classes
// that c10d's ProcessGroupGloo.hpp mentions; we only ever hold pointers to them.
#pragma once
