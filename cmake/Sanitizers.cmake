add_library(qmpbackup_sanitizers INTERFACE)
if(QMPBACKUP_SANITIZERS)
  target_compile_options(qmpbackup_sanitizers INTERFACE
    -fsanitize=${QMPBACKUP_SANITIZERS} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_link_options(qmpbackup_sanitizers INTERFACE -fsanitize=${QMPBACKUP_SANITIZERS})
endif()
