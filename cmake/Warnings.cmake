add_library(qmpbackup_warnings INTERFACE)
target_compile_options(qmpbackup_warnings INTERFACE
  -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wsign-conversion -Wold-style-cast -Wcast-qual -Wformat=2
  -Wnon-virtual-dtor -Woverloaded-virtual -Wextra-semi -Wdouble-promotion -Wundef -Wredundant-decls
  -Wmissing-declarations -Wswitch-enum
  $<$<CXX_COMPILER_ID:GNU>:-Wduplicated-cond -Wduplicated-branches -Wlogical-op -Wuseless-cast -Wsuggest-override>
  $<$<BOOL:${QMPBACKUP_WERROR}>:-Werror>)
