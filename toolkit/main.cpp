#include "commands/command.h"

int main(int argc, char** argv) { return envkit::Main(argc, argv); }
