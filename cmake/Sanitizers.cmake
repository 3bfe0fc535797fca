add_library(qmpbackup_sanitizers INTERFACE)
if(QMPBACKUP_SANITIZERS)
  # Undefined behaviour is looked for in the program alone, and only that is optimized: the tests' own code would take
  # most of the build.
  string(REPLACE ",undefined" "" in_tests "${QMPBACKUP_SANITIZERS}")
  string(REPLACE "," "$<COMMA>" in_program "${QMPBACKUP_SANITIZERS}")
  target_compile_options(qmpbackup_sanitizers INTERFACE
    -fsanitize=$<IF:$<BOOL:$<TARGET_PROPERTY:QMPBACKUP_TEST_CODE>>,${in_tests},${in_program}>
    -fno-sanitize-recover=all -fno-omit-frame-pointer $<$<BOOL:$<TARGET_PROPERTY:QMPBACKUP_TEST_CODE>>:-O0>)
  target_link_options(qmpbackup_sanitizers INTERFACE -fsanitize=${QMPBACKUP_SANITIZERS})
endif()
