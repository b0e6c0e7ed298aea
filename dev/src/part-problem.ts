/**
 * The embedded stack cannot do what was asked, for a reason that the person at the terminal can change. The message
 * is one line that names what is missing and the ways out; it is shown without a stack.
 */
export class PartProblem extends Error {
  override readonly name = 'PartProblem';
}
