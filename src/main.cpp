#include <fcntl.h>

#include "qmpbackup/command_line.hpp"

int main(int argc, char** argv) {
  for (int standard = 0; standard <= 2; ++standard) {
    if (::fcntl(standard, F_GETFD) < 0) {  // closed: a file or socket would get this number, and what is printed
      ::open("/dev/null", O_RDWR);
    }
  }
  return qmpbackup::run_command_line(argc, argv);
}
