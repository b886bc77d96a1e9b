"""A CUDA device by its driver, for the scripts beside this one: nothing but numpy and the CUDA libraries is needed."""
import ctypes, sys
import numpy as np


def library(*names):
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError:
            pass
    sys.exit(f"none of {', '.join(names)} is to be found; name its folder in LD_LIBRARY_PATH")


cuda = library("libcuda.so.1")
nvrtc = library("libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so")


def ok(result, doing):
    if result != 0:
        sys.exit(f"{doing}: error {result}")


def compiled(source, names, *options, behind=None):
    """The kernels of a file, and of another one behind it, by name."""
    text = source.read_bytes() + (behind.read_bytes() if behind else b"")
    options = [f"--gpu-architecture={architecture}", *options]
    program = ctypes.c_void_p()
    ok(nvrtc.nvrtcCreateProgram(ctypes.byref(program), text, source.name.encode(), 0, None, None), "a program")
    words = (ctypes.c_char_p * len(options))(*[o.encode() for o in options])
    if nvrtc.nvrtcCompileProgram(program, len(options), words):
        size = ctypes.c_size_t()
        nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        nvrtc.nvrtcGetProgramLog(program, log)
        sys.exit(log.value.decode())
    size = ctypes.c_size_t()
    ok(nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size)), "machine code")
    cubin = ctypes.create_string_buffer(size.value)
    ok(nvrtc.nvrtcGetCUBIN(program, cubin), "machine code")
    module = ctypes.c_void_p()
    ok(cuda.cuModuleLoadData(ctypes.byref(module), cubin), "loading machine code")
    functions = {}
    for name in names:
        functions[name] = ctypes.c_void_p()
        ok(cuda.cuModuleGetFunction(ctypes.byref(functions[name]), module, name.encode()), name)
    return functions


def memory(size):
    address = ctypes.c_uint64()
    ok(cuda.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(size + 512)), "memory")
    return address


def upload(array):
    array = np.ascontiguousarray(array)
    address = memory(array.nbytes)
    ok(cuda.cuMemcpyHtoD_v2(address, array.ctypes.data_as(ctypes.c_void_p), ctypes.c_size_t(array.nbytes)), "a copy")
    return address


def download(address, shape, dtype):
    array = np.empty(shape, dtype)
    ok(cuda.cuCtxSynchronize(), "the kernels")
    ok(cuda.cuMemcpyDtoH_v2(array.ctypes.data_as(ctypes.c_void_p), address, ctypes.c_size_t(array.nbytes)), "a copy")
    return array


def launch(function, grid, threads, *args):
    pointers = (ctypes.c_void_p * len(args))(*[ctypes.cast(ctypes.pointer(a), ctypes.c_void_p) for a in args])
    ok(cuda.cuLaunchKernel(function, grid[0], grid[1], 1, threads, 1, 1, 0, stream, pointers, None), "a launch")


def bits(x):
    """bf16, rounded to the nearest."""
    wide = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((wide + 0x7FFF + (wide >> 16 & 1)) >> 16).astype(np.uint16)


def floats(b):
    return (b.astype(np.uint32) << 16).view(np.float32)


def timed(work, times=20):
    """Median milliseconds by the device's clock; none where it has no clock."""
    if not hasattr(cuda, "cuEventElapsedTime"):
        return None
    a, b, ms, all_ms = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_float(), []
    cuda.cuEventCreate(ctypes.byref(a), 0), cuda.cuEventCreate(ctypes.byref(b), 0)
    for _ in range(times):
        cuda.cuEventRecord(a, stream)
        work()
        cuda.cuEventRecord(b, stream)
        cuda.cuEventSynchronize(b)
        cuda.cuEventElapsedTime(ctypes.byref(ms), a, b)
        all_ms.append(ms.value)
    return sorted(all_ms)[times // 2]


ok(cuda.cuInit(0), "the driver")
device, context, stream = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_void_p()
ok(cuda.cuDeviceGet(ctypes.byref(device), 0), "the device")
ok(cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device), "the device")
ok(cuda.cuCtxSetCurrent(context), "the device")
major, minor = ctypes.c_int(), ctypes.c_int()
cuda.cuDeviceGetAttribute(ctypes.byref(major), 75, device), cuda.cuDeviceGetAttribute(ctypes.byref(minor), 76, device)
architecture = f"sm_{major.value}{minor.value}"
ok(cuda.cuStreamCreate(ctypes.byref(stream), 0), "a stream")
