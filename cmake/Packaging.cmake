include(GNUInstallDirs)

set(packaging_dir ${CMAKE_CURRENT_BINARY_DIR}/packaging)
foreach(file qmpbackup.1 qmpbackup@.service qmpbackup@.timer)
  configure_file(cmake/${file}.in ${packaging_dir}/${file} @ONLY)
endforeach()

install(TARGETS qmpbackup RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(FILES ${packaging_dir}/qmpbackup.1 DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)
install(FILES cmake/qmpbackup.bash-completion DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions
        RENAME qmpbackup)
# systemd looks into lib, also where libraries are in lib/<architecture>.
install(FILES ${packaging_dir}/qmpbackup@.service ${packaging_dir}/qmpbackup@.timer DESTINATION lib/systemd/system)
install(FILES LICENSE THIRD_PARTY_LICENSES README.md DESTINATION ${CMAKE_INSTALL_DOCDIR})
