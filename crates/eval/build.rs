fn main() -> std::io::Result<()> {
    // The sources that have a part in an answer.
    print!("{}", heterosis_build_digest::instructions(&["src"])?);
    Ok(())
}
