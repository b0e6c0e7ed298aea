import { delimiter, dirname } from 'node:path';

const passedOn = ['HOME', 'TMPDIR', 'TZ', 'LANG', 'NODE_V8_COVERAGE', 'NODE_EXTRA_CA_CERTS'];

/** What a spawned service gets of the caller's environment: where things are, and where coverage is written. */
export function inheritedEnvironment(): Record<string, string> {
  const path = [dirname(process.execPath), process.env.PATH ?? ''].join(delimiter);
  const found = passedOn.flatMap((name) => {
    const value = process.env[name];
    return value === undefined ? [] : [[name, value] as const];
  });
  return { PATH: path, ...Object.fromEntries(found) };
}

/** A variable of the test run, or undefined. */
export function variable(name: string): string | undefined {
  return process.env[name];
}
