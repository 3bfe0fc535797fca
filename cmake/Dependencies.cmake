# Everything comes from the distribution's packages; nothing is downloaded.
find_package(Threads REQUIRED)
find_package(nlohmann_json 3.11 REQUIRED)
find_package(fmt 9 REQUIRED)
find_package(CLI11 2.1 REQUIRED)
find_package(OpenSSL 3 REQUIRED COMPONENTS Crypto)

# Standalone asio is headers alone, without a CMake config.
find_path(ASIO_INCLUDE_DIR asio.hpp REQUIRED)
add_library(qmpbackup_asio INTERFACE)
target_include_directories(qmpbackup_asio SYSTEM INTERFACE ${ASIO_INCLUDE_DIR})
target_compile_definitions(qmpbackup_asio INTERFACE ASIO_STANDALONE ASIO_NO_DEPRECATED)
target_link_libraries(qmpbackup_asio INTERFACE Threads::Threads)

if(QMPBACKUP_TESTS)
  find_package(GTest REQUIRED)
endif()
