//! VM definitions from files: reading, positions of mistakes, suggestions.
