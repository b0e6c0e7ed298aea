import { delimiter, dirname } from 'node:path';
import { readVariable } from '@signalbox/config/process-environment';

const passedOn = ['HOME', 'TMPDIR', 'TZ', 'LANG', 'NODE_V8_COVERAGE', 'NODE_EXTRA_CA_CERTS'];

/** What a spawned service gets of the caller's environment: where things are, and where coverage is written. */
export function inheritedEnvironment(): Record<string, string> {
  const environment: Record<string, string> = {
    PATH: [dirname(process.execPath), readVariable('PATH') ?? ''].join(delimiter),
  };
  for (const name of passedOn) {
    const value = readVariable(name);
    if (value !== undefined) {
      environment[name] = value;
    }
  }
  return environment;
}
