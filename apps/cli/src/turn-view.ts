export interface TurnEnd {
  readonly ok: boolean;
  /** `stop`, another end reason, or an error code. */
  readonly reason: string;
}

export interface TurnView {
  /** What the terminal shows for this event: often a piece of text, for an event of another turn nothing. */
  apply(event: string, data: Readonly<Record<string, unknown>>): string;
  /** Set once the turn's last event was seen. */
  readonly end: TurnEnd | undefined;
}

const maxShownCharacters = 300;

/**
 * Shows one turn as its events come, each character once: pieces say where they belong (`at`, in code points), so what
 * a takeover or a resumed stream brings again is cut, and a takeover that starts the answer anew says so.
 */
export function createTurnView(turnId: string): TurnView {
  let attempt = 0;
  /** The answer as it stands, by code points: a piece may begin in the middle of what is shown. */
  let shown: string[] = [];
  let atLineStart = true;
  let end: TurnEnd | undefined;

  const say = (text: string): string => {
    if (text !== '') atLineStart = text.endsWith('\n');
    return text;
  };
  const line = (text: string): string => say(`${atLineStart ? '' : '\n'}${text}\n`);

  const piece = (at: number, text: string): string => {
    const points = [...text];
    // Pieces before this one were lost (they are kept for a while only); the final event brings the whole text.
    if (at > shown.length) return '';
    const fresh = points.slice(shown.length - at);
    shown = [...shown, ...fresh];
    return say(fresh.join(''));
  };

  const takeOver = (keep: number): string => {
    const had = shown.length;
    shown = shown.slice(0, keep);
    if (had <= keep) return '';
    return line('[another worker took the turn over; the answer starts again]') + say(shown.join(''));
  };

  const finish = (text: string): string => {
    const before = shown.join('');
    const anew = !text.startsWith(before);
    const notice = anew ? line('[the answer as it stands]') : '';
    const rest = say(anew ? text : text.slice(before.length));
    return notice + rest + (atLineStart ? '' : say('\n'));
  };

  return {
    apply(event, data) {
      if (data.turn_id !== turnId || end !== undefined) return '';
      const of = typeof data.attempt === 'number' ? data.attempt : attempt;
      if (of < attempt) return '';
      attempt = of;
      switch (event) {
        case 'turn.queued':
          if (data.strategy === 'interrupt') return line('[the turn before it is cancelled first]');
          return number(data.position) > 0 ? line(`[queued behind ${number(data.position)}]`) : '';
        case 'turn.resumed':
          return takeOver(number(data.keep_chars));
        case 'assistant.delta':
          return piece(number(data.at), text(data.text));
        case 'tool.started':
          return line(`[tool ${text(data.tool)} ${brief(JSON.stringify(data.arguments ?? {}))}]`);
        case 'tool.result':
          return line(
            `[tool ${text(data.tool)}: ${text(data.outcome)}, ${Math.round(number(data.duration_ms))} ms: ${brief(text(data.output))}]`,
          );
        case 'assistant.final': {
          const reason = text(data.end_reason) || 'stop';
          end = { ok: true, reason };
          return finish(text(data.text)) + (reason === 'stop' ? '' : line(`[ended by ${reason}]`));
        }
        case 'assistant.error':
          end = { ok: false, reason: text(data.error_code) };
          return line(`[failed: ${text(data.error_code)}: ${text(data.message)}]`);
        case 'turn.rejected':
          end = { ok: false, reason: event };
          return line('[rejected: another turn of this session runs]');
        case 'turn.cancelled':
          end = { ok: false, reason: event };
          return finish(text(data.text)) + line(`[${cancelledBy(data)}]`);
        default:
          return '';
      }
    },
    get end() {
      return end;
    },
  };
}

function cancelledBy(data: Readonly<Record<string, unknown>>): string {
  if (data.cause === 'interrupted') return 'cancelled by a later message';
  const reason = text(data.reason);
  return reason === '' ? 'cancelled' : `cancelled: ${brief(reason)}`;
}

function text(value: unknown): string {
  return typeof value === 'string' ? value : '';
}

function number(value: unknown): number {
  return typeof value === 'number' ? value : 0;
}

function brief(value: string): string {
  const oneLine = value.replaceAll(/\s+/g, ' ').trim();
  return oneLine.length > maxShownCharacters ? `${oneLine.slice(0, maxShownCharacters)}…` : oneLine;
}
