import { type Tool, ToolError } from './tool.ts';

export const timestamp: Tool = {
  name: 'timestamp',
  description: 'The current date and time, in UTC (RFC 3339), or in a time zone when one is given.',
  parameters: {
    type: 'object',
    properties: {
      timezone: { type: 'string', maxLength: 64, description: 'IANA time zone, such as Europe/Berlin.' },
    },
    additionalProperties: false,
  },
  idempotent: true,
  timeoutMs: 5_000,
  run({ timezone }) {
    const now = new Date();
    return typeof timezone === 'string' ? inZone(now, timezone) : now.toISOString();
  },
};

/** `2026-11-21T10:02:03+01:00 (Europe/Berlin, Saturday)`. */
export function inZone(instant: Date, timezone: string): string {
  let format: Intl.DateTimeFormat;
  try {
    format = new Intl.DateTimeFormat('en-GB', {
      timeZone: timezone,
      hourCycle: 'h23',
      weekday: 'long',
      year: 'numeric',
      month: '2-digit',
      day: '2-digit',
      hour: '2-digit',
      minute: '2-digit',
      second: '2-digit',
      timeZoneName: 'longOffset',
    });
  } catch {
    throw new ToolError(`unknown time zone ${JSON.stringify(timezone)}`);
  }
  const part = new Map(format.formatToParts(instant).map(({ type, value }) => [type, value]));
  const offset = part.get('timeZoneName')?.replace('GMT', '') || '+00:00';
  const date = `${part.get('year')}-${part.get('month')}-${part.get('day')}`;
  const time = `${part.get('hour')}:${part.get('minute')}:${part.get('second')}`;
  return `${date}T${time}${offset} (${timezone}, ${part.get('weekday')})`;
}
