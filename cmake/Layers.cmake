# The layers, lowest first, and the parts of each. A part is include/qmpbackup/PART.hpp with src/PART.cpp.
# A part includes parts of its own layer and of lower ones only; tests/layering.cmake checks it.
set(QMPBACKUP_LAYERS values pure effects execution cli)

set(QMPBACKUP_LAYER_values sizes ids errors sha256 json_text)
set(QMPBACKUP_LAYER_pure
    chain_files manifest lock_note qcow2_header chain_on_disk qmp_message vm_state bitmap_marks level_bitmap backup_planner backup_commands recovery image_map
    progress table chain_view arguments)
set(QMPBACKUP_LAYER_effects event_loop clock folders files new_file file_lock process qemu_img qmp_client reporter connection checksums chain_reader chain_watch)
set(QMPBACKUP_LAYER_execution session mark_check level_check merge_finisher level_finisher backup_wait recovery_run backup_run clean_bitmap_run list_run verify_run
    nbd_export restore_run merge_run info_run)
set(QMPBACKUP_LAYER_cli
    option_checks commands backup_command list_command verify_command restore_command merge_command info_command command_line)
