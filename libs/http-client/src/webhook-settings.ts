import { secret } from '@signalbox/config/settings';

/** Known to everybody: it signs nothing that counts. */
const devSecret = 'for development only, not a secret';

/** What who signs webhooks and who shows their secrets share. */
export const webhookSettings = {
  webhookSigningSecret: secret({
    env: 'WEBHOOK_SIGNING_SECRET',
    doc: "Each tenant's webhook secret is derived from it (`signalbox webhook-secret`); a change changes them all.",
    profiles: { dev: devSecret },
    min: 16,
    devOnly: (value) => (value === devSecret ? 'the secret of development' : undefined),
  }),
};
