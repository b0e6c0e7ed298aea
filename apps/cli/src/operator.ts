import { newId } from '@signalbox/contracts/ids';
import { type Fault, fault } from '@signalbox/faults/fault';
import { sqlState } from '@signalbox/postgres/classify-error';
import { type Database, openDatabase } from '@signalbox/postgres/database';
import { silentLog, silentMetrics } from '@signalbox/telemetry/silent';
import { type Logger, startTelemetry } from '@signalbox/telemetry/telemetry';
import { commandSettings, operatorSettings } from './settings.ts';

/** What a command of an operator works with: the database as the role of DATABASE_OWNER_URL. */
export interface OperatorSession {
  readonly database: Database;
  /** What was done, as lines on stderr. */
  readonly log: Logger;
  /** `operator:<database role>`. */
  readonly by: string;
}

const insufficientPrivilege = '42501';

/** Opens it for a command, and closes it behind. Faults: FORBIDDEN where the role is no operator's. */
export async function withOperator(
  command: string,
  note: (line: string) => void,
  use: (session: OperatorSession) => Promise<void>,
): Promise<void> {
  const settings = commandSettings(operatorSettings);
  const telemetry = startTelemetry({
    ...{ service: 'cli', version: '0', environment: 'dev', instanceId: newId() },
    ...{ tracing: true, metrics: false, otlpEndpoint: settings.otlpEndpoint },
    ...{ logLevel: 'INFO', logFormat: 'json' },
    // What was done, as one line for whoever keeps it; answers go to stdout.
    logDestination: { write: (line) => note(line.trimEnd()) },
  });
  const database = openDatabase({
    ...{ url: settings.databaseOwnerUrl, poolSize: 1, maxOverflow: 0, poolTimeoutMs: 10_000 },
    ...{ poolRecycleMs: 60_000, applicationName: `signalbox-${command}` },
    ...{ log: silentLog, metrics: silentMetrics },
  });
  try {
    const [role] = await database.query<{ name: string }>('select session_user::text as name');
    await use({ database, log: telemetry.log, by: `operator:${role?.name}` });
  } catch (error) {
    if (sqlState(error) !== insufficientPrivilege) throw error;
    throw fault('FORBIDDEN', 'DATABASE_OWNER_URL names a role without the rights of an operator', {
      cause: error,
    });
  } finally {
    await database.close();
    await telemetry.shutdown();
  }
}

/** An option that cannot be used as it was given. */
export function invalid(option: string, message: string): Fault {
  return fault('VALIDATION_ERROR', 'the command cannot be run like this', {
    errors: [{ path: `--${option}`, message }],
  });
}

/** What others wrote must not tell the terminal anything. */
export function plain(text: string): string {
  return text.replaceAll(/[\p{Cc}\p{Cf}]/gu, '\uFFFD');
}

/** Prints rows below the names of their columns. */
export function table(
  names: readonly string[],
  rows: readonly string[][],
  print: (line: string) => void,
): void {
  const lines = [names, ...rows.map((row) => row.map(plain))];
  const widths = names.map((_, i) => Math.max(...lines.map((line) => line[i]?.length ?? 0)));
  for (const line of lines) {
    print(
      line
        .map((cell, i) => cell.padEnd(widths[i] ?? 0))
        .join('  ')
        .trimEnd(),
    );
  }
}
