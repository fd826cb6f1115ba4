//! ELF images made by hand: guests of a few instructions for every monitor, and an init of a few for Linux.
//!
//! One guest image has two entries at one place: `e_entry`, where monitors that speak Linux's 64-bit boot protocol begin in
//! long mode, and a PVH note, where the others begin in 32-bit protected mode. The instructions before the two part
//! ways are encoded alike in both.

/// Where guests' code lies: the lowest address that every monitor loads to.
const GUEST_CODE: u64 = 0x10_0000;
/// Where an init's code lies.
const INIT_CODE: u64 = 0x40_0000;
/// Where code begins in the file: file offset and address agree in their low bits, as `mmap` wants it.
const FILE_OFFSET: usize = 0x1000;

/// What a guest writes to the first serial port. No text holds it, so it is not mistaken for a monitor's own words.
pub const GUEST_BYTE: u8 = 0xc3;
/// What an init writes to its console.
pub const INIT_LINE: &str = "bench: user space\n";

/// How a guest's life goes on after its byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// It halts for good.
    Idle,
    /// It pulses the reset line by the keyboard controller.
    KeyboardReset,
    /// It enters S5 by the sleep register at port 0x600.
    PowerOff,
    /// It has no interrupt table and takes an exception: a triple fault. For 32-bit entries only.
    TripleFault,
}

/// A guest, as the bytes of its ELF file.
pub fn guest(says_byte: bool, then: Then) -> Vec<u8> {
    let mut code = Vec::new();
    if says_byte {
        // mov dx, 0x3f8; mov al, BYTE; out dx, al
        code.extend([0x66, 0xba, 0xf8, 0x03, 0xb0, GUEST_BYTE, 0xee]);
    }
    match then {
        Then::Idle => {}
        // mov al, 0xfe; out 0x64, al
        Then::KeyboardReset => code.extend([0xb0, 0xfe, 0xe6, 0x64]),
        // mov dx, 0x600; mov al, SLP_EN | 5 << 2; out dx, al
        Then::PowerOff => code.extend([0x66, 0xba, 0x00, 0x06, 0xb0, 0x34, 0xee]),
        Then::TripleFault => {
            // lidt [table]; ud2; the table of no entries follows the code.
            let table = low32(GUEST_CODE) + 64;
            code.extend([0x0f, 0x01, 0x1d]);
            code.extend(table.to_le_bytes());
            code.extend([0x0f, 0x0b]);
        }
    }
    // hlt; jmp to the hlt
    code.extend([0xf4, 0xeb, 0xfd]);
    code.resize(128, 0);
    image(GUEST_CODE, &code, Some(GUEST_CODE))
}

/// An init for Linux: the marker byte to port 0x80, a line to the console, and then nothing, or the power off.
pub fn init(power_off: bool) -> Vec<u8> {
    const IOPERM: u32 = 173;
    const WRITE: u32 = 1;
    const REBOOT: u32 = 169;
    const PAUSE: u32 = 34;
    let line_at = low32(INIT_CODE) + 128;
    let mut code = Vec::new();
    system_call(&mut code, IOPERM, [0x80, 1, 1]);
    // Only if the port is ours: test eax, eax; jnz over; mov al, 0x41; out 0x80, al
    code.extend([0x85, 0xc0, 0x75, 0x04, 0xb0, 0x41, 0xe6, 0x80]);
    system_call(&mut code, WRITE, [1, line_at, length(INIT_LINE)]);
    if power_off {
        system_call(&mut code, REBOOT, [0xfee1_dead, 672_274_793, 0x4321_fedc]);
    }
    let again = code.len();
    system_call(&mut code, PAUSE, [0, 0, 0]);
    // jmp to the system call
    let back = code.len() + 2 - again;
    code.extend([0xeb, u8::try_from(256 - back).expect("a short jump")]);
    assert!(code.len() <= 128, "the line lies behind the code");
    code.resize(128, 0);
    code.extend(INIT_LINE.as_bytes());
    image(INIT_CODE, &code, None)
}

/// mov eax, NUMBER; mov edi, …; mov esi, …; mov edx, …; syscall
fn system_call(code: &mut Vec<u8>, number: u32, arguments: [u32; 3]) {
    for (opcode, value) in [0xb8_u8, 0xbf, 0xbe, 0xba].into_iter().zip([
        number,
        arguments[0],
        arguments[1],
        arguments[2],
    ]) {
        code.push(opcode);
        code.extend(value.to_le_bytes());
    }
    code.extend([0x0f, 0x05]);
}

fn low32(address: u64) -> u32 {
    u32::try_from(address).expect("below 4 GiB")
}

fn length(text: &str) -> u32 {
    u32::try_from(text.len()).expect("a short text")
}

const HEADER: u16 = 64;
const PROGRAM_HEADER: u16 = 56;
const LOAD: u32 = 1;
const NOTE: u32 = 4;

/// An executable of one segment, entered at its start; with a PVH note for that address.
fn image(address: u64, code: &[u8], pvh: Option<u64>) -> Vec<u8> {
    let note = pvh.map(pvh_note);
    let note_at = u64::from(HEADER) + 2 * u64::from(PROGRAM_HEADER);
    let mut file = Vec::new();
    file.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    for half in [2_u16, 62] {
        file.extend(half.to_le_bytes());
    }
    file.extend(1_u32.to_le_bytes());
    for word in [address, u64::from(HEADER), 0] {
        file.extend(word.to_le_bytes());
    }
    file.extend(0_u32.to_le_bytes());
    let headers = if note.is_some() { 2 } else { 1 };
    for half in [HEADER, PROGRAM_HEADER, headers, 64, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    let code_length = u64::try_from(code.len()).expect("a short program");
    let offset = u64::try_from(FILE_OFFSET).expect("a small number");
    // Readable and executable.
    program_header(&mut file, LOAD, 5, [offset, address, code_length, 0x1000]);
    if let Some(note) = &note {
        let length = u64::try_from(note.len()).expect("a short note");
        program_header(&mut file, NOTE, 4, [note_at, 0, length, 4]);
        file.extend(note);
    }
    file.resize(FILE_OFFSET, 0);
    file.extend(code);
    // Some loaders read whole blocks.
    file.resize(FILE_OFFSET * 2, 0);
    file
}

fn program_header(
    file: &mut Vec<u8>,
    kind: u32,
    flags: u32,
    [offset, address, length, align]: [u64; 4],
) {
    file.extend(kind.to_le_bytes());
    file.extend(flags.to_le_bytes());
    for word in [offset, address, address, length, length, align] {
        file.extend(word.to_le_bytes());
    }
}

/// `XEN_ELFNOTE_PHYS32_ENTRY`, as wide as Linux writes it.
fn pvh_note(entry: u64) -> Vec<u8> {
    let mut note = Vec::new();
    for word in [4_u32, 8, 18] {
        note.extend(word.to_le_bytes());
    }
    note.extend(b"Xen\0");
    note.extend(entry.to_le_bytes());
    note
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(file: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(file[at..at + 8].try_into().unwrap())
    }

    #[test]
    fn both_entries_of_a_guest_are_its_first_instruction() {
        let file = guest(true, Then::Idle);
        assert_eq!(&file[..4], b"\x7fELF");
        assert_eq!(word(&file, 24), GUEST_CODE);
        // The second program header is the note.
        let header = usize::from(HEADER + PROGRAM_HEADER);
        assert_eq!(file[header], 4);
        let note = usize::try_from(word(&file, header + 8)).unwrap();
        assert_eq!(&file[note + 12..note + 16], b"Xen\0");
        assert_eq!(word(&file, note + 16), GUEST_CODE);
        assert_eq!(
            &file[FILE_OFFSET..FILE_OFFSET + 10],
            [
                0x66, 0xba, 0xf8, 3, 0xb0, GUEST_BYTE, 0xee, 0xf4, 0xeb, 0xfd
            ]
        );
    }

    #[test]
    fn a_silent_guest_starts_with_its_end() {
        let file = guest(false, Then::KeyboardReset);
        assert_eq!(
            &file[FILE_OFFSET..FILE_OFFSET + 4],
            [0xb0, 0xfe, 0xe6, 0x64]
        );
    }

    #[test]
    fn an_init_loads_its_line_behind_its_code() {
        for power_off in [false, true] {
            let file = init(power_off);
            let line = FILE_OFFSET + 128;
            assert_eq!(&file[line..line + INIT_LINE.len()], INIT_LINE.as_bytes());
            assert_eq!(file[56], 1, "one program header");
            assert_eq!(
                word(&file, usize::from(HEADER) + 32),
                128 + u64::from(length(INIT_LINE))
            );
        }
    }

    /// It is an ordinary program, but for what only root may do: this kernel runs it.
    #[test]
    fn an_init_says_its_line() {
        use std::{
            io::Read,
            process::{Command, Stdio},
        };
        let directory = tempfile::tempdir().unwrap();
        let (made, path) = (directory.path().join("made"), directory.path().join("init"));
        std::fs::write(&made, init(false)).unwrap();
        // Another program makes the executable: a file that this one has open for writing is open, for a moment, in any child
        // that another test starts, and execve(2) refuses it with ETXTBSY.
        let mut install = Command::new("install");
        install.args(["-m", "700"]).arg(&made).arg(&path);
        assert!(install.status().unwrap().success());
        let mut child = Command::new(&path).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = vec![0; INIT_LINE.len()];
        child
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut said)
            .unwrap();
        assert_eq!(said, INIT_LINE.as_bytes());
        assert!(child.try_wait().unwrap().is_none(), "it waits");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
