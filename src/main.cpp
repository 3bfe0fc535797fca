#include "qmpbackup/command_line.hpp"

int main(int argc, char** argv) {
  return qmpbackup::run_command_line(argc, argv);
}
