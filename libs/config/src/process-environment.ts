/**
 * The process environment for the few who hand it on: dev/ starts child processes, and the test run tells its workers
 * where the parts are. Everybody else reads settings.
 */

/** The variable's value; undefined when it is unset or empty. */
export function readVariable(name: string): string | undefined {
  const value = process.env[name];
  return value === undefined || value === '' ? undefined : value;
}

/** This process's environment with changes, for a child process; an undefined value takes the variable out. */
export function environmentWith(
  changes: Readonly<Record<string, string | undefined>>,
): Record<string, string | undefined> {
  return { ...process.env, ...changes };
}

/** Sets a variable of this process, which worker processes started later inherit; undefined removes it. */
export function setVariable(name: string, value: string | undefined): void {
  if (value === undefined) delete process.env[name];
  else process.env[name] = value;
}
