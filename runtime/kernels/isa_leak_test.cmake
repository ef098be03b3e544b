# NM: the symbol lister; OBJECTS: object files compiled with the flags of an instruction set. None may define a weak
# symbol (an inline function or template): the linker could keep that copy for the whole program. The compiler's own
# pointer to its exception handler (DW.ref.*) is data, the same in every object.
foreach(object IN LISTS OBJECTS)
  if(NOT object MATCHES "/kernels/(amx|avx2|avx512|avx512_bf16|dotprod|neon)/")
    continue()
  endif()
  execute_process(COMMAND "${NM}" -C --defined-only "${object}" OUTPUT_VARIABLE symbols COMMAND_ERROR_IS_FATAL ANY)
  string(REGEX MATCHALL "[^\n]* [WVu] [^\n]*" weak "${symbols}")
  list(FILTER weak EXCLUDE REGEX "DW\\.ref\\.")
  if(weak)
    message(FATAL_ERROR "${object} defines what other files may use: ${weak}")
  endif()
  set(seen TRUE)
endforeach()
if(NOT seen)
  message(FATAL_ERROR "no object of an instruction set was given")
endif()
